"""The changes of params.yaml that make the least run of every stage: one trial, one epoch, tiles without overlap."""

LEAST_RUN: dict[str, object] = {
    "ingest.women": 20,
    "tune_classifier.trials": 1,
    "tune_classifier.budget_samples": 32,
    "train_classifier.training.budget_samples": 32,
    "train_classifier.training.epoch_samples": 32,
    "predict_classifier.step_px": 256,
    "evaluate_classifier.resamples": 100,
    "explain_classifier.resamples": 100,
    "tune_detector.trials": 1,
    "tune_detector.budget_samples": 32,
    "train_detector.training.budget_samples": 32,
    "train_detector.training.epoch_samples": 32,
    "leaky_classifier.values.budget_samples": 32,
    "leaky_detector.values.budget_samples": 32,
    "predict_detector.tiles.step_px": 256,
    "evaluate_detector.resamples": 100,
    "evaluate_locator.resamples": 100,
    # how fast the machine is just now must not decide what a test compares
    "gate.seconds_per_film": 600,
}
