"""One script per DVC stage: file name = stage = section of params.yaml = results folder."""
