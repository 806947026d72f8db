"""mammo_ml: train, believe, register and use models on mammograms with lesion annotations."""

__version__ = "0.1.0"
