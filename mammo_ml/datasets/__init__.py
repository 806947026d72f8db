"""One module per public data set; each turns its own files into the two tables of `catalog`."""
