"""Answering films from the command line: which films, with which model, and what is written of each.

- `film_files`: the films that were meant, and the names of their answers.
- `film_reading`: a film file with its pixel spacing, laterality and what is to be said of it.
- `film_models`, `fold_models`: registered models, and those of the folds, ready to look at films.
- `film_answers`: what is kept of an answer, and its JSON.
- `tables`, `overlay`, `structured_report`: the other forms it is given in.
- `film_run`: film after film, one bad one stopping nothing, what is done not done again.
"""
