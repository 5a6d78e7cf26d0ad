#!/usr/bin/env python3
"""Makes tests/golden/classification.json: per-class scores, confusions and calibration of random logits, by scikit-learn.

Ten classes, of which one has no images and another is never predicted, with uneven counts and some equal logits. The expected
calibration error is computed by the reference code of Guo et al. 2017 (arXiv:1706.04599): 15 bins, lower edge excluded.
Made with scikit-learn 1.9 and NumPy.

    python3 scripts/golden/classification.py
"""

import json
import pathlib

import numpy as np
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, log_loss, precision_recall_fscore_support

GOLDEN = pathlib.Path(__file__).parent.parent.parent / "tests/golden"
CLASSES, IMAGES, SEED = 10, 400, 5


def calibration_error(confidences, right, bins=15):
    edges = np.linspace(0, 1, bins + 1)
    error = 0.0
    for low, high in zip(edges[:-1], edges[1:]):
        inside = (confidences > low) & (confidences <= high)
        if inside.any():
            error += abs(confidences[inside].mean() - right[inside].mean()) * inside.mean()
    return error


def main():
    rng = np.random.default_rng(SEED)
    # Class 7 has no images.
    labels = rng.choice(CLASSES, IMAGES, p=[0.3, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.0, 0.05, 0.05])
    logits = np.round(rng.normal(0, 1.5, (IMAGES, CLASSES)) * 4) / 4  # steps of a quarter: some are equal
    logits[np.arange(IMAGES), labels] += 1.5
    logits[:, 9] = -6.0  # never predicted
    logits = logits.astype(np.float32)
    exact = logits.astype(np.float64)
    probabilities = np.exp(exact - exact.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    predicted = exact.argmax(1)  # the first of equal ones
    every = list(range(CLASSES))
    precision, recall, f1, images = precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=np.nan
    )
    number = lambda values: [None if np.isnan(v) else float(v) for v in values]
    content = {
        "labels": labels.tolist(),
        "logits": logits.tolist(),
        "matrix": confusion_matrix(labels, predicted, labels=every).tolist(),
        "precision": number(precision),
        "recall": number(recall),
        "f1": number(f1),
        "images": images.tolist(),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "log_loss": float(log_loss(labels, probabilities, labels=every)),
        "calibration_error": float(calibration_error(probabilities.max(1), predicted == labels)),
    }
    (GOLDEN / "classification.json").write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
