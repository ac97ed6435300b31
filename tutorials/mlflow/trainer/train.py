"""Fits a polynomial to noisy points, and says how well: without a line of MLflow."""

import argparse
import json
import random


def main() -> None:
    """Fits by gradient descent, and tests on points that were held back."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--degree", type=int, default=3, help="Degree of the polynomial.")
    parser.add_argument("--learning_rate", type=float, default=0.1, help="Size of a step.")
    parser.add_argument("--steps", type=int, default=2000, help="How many steps there are.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the points.")
    arguments = parser.parse_args()

    source = random.Random(arguments.seed)
    points = [source.uniform(-1, 1) for _ in range(200)]
    values = [x**3 - x / 2 + source.gauss(0, 0.05) for x in points]
    powers = [[x**power for power in range(arguments.degree + 1)] for x in points]
    weights = [0.0] * (arguments.degree + 1)

    def error(of: range) -> float:
        return sum((predicted(row) - values[row]) ** 2 for row in of) / len(of)

    def predicted(row: int) -> float:
        return sum(w * p for w, p in zip(weights, powers[row], strict=True))

    train, test = range(150), range(150, 200)
    for step in range(1, arguments.steps + 1):
        misses = [predicted(row) - values[row] for row in train]
        for power in range(len(weights)):
            slope = sum(miss * powers[row][power] for row, miss in enumerate(misses))
            weights[power] -= arguments.learning_rate * 2 * slope / len(train)
        if step % (arguments.steps // 4 or 1) == 0:
            print(f"Step {step}: training error {error(train):.5f}")
    # This line is all that caliban, and by it MLflow, needs.
    print("caliban:", json.dumps({"error": error(test), "training_error": error(train)}))


if __name__ == "__main__":
    main()
