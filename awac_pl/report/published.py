"""Published success rates for the tasks with a binary reward, as a comparison."""

from __future__ import annotations

SOURCE = (
    "published curves: read off the WSRL project page, ±0.03; success at any step after pretraining on 25 human "
    "demonstrations and 500 episodes of a policy cloned from them"
)

#: Online environment steps of the values.
ENV_STEPS = (0, 100_000, 200_000, 300_000)

#: Success rates at ``ENV_STEPS``, by task and method.
SUCCESS: dict[str, dict[str, tuple[float, ...]]] = {
    "pen": {
        "Cal-QL, 10 critics": (0.67, 0.93, 0.97, 0.99),
        "WSRL": (0.67, 0.84, 0.95, 0.97),
        "RLPD": (0.02, 0.86, 0.91, 0.96),
        "Cal-QL": (0.74, 0.88, 0.86, 0.89),
    },
    "door": {
        "Cal-QL, 10 critics": (0.28, 0.49, 0.82, 0.87),
        "WSRL": (0.28, 0.74, 0.97, 1.0),
        "RLPD": (0.0, 0.95, 0.99, 0.99),
        "Cal-QL": (0.37, 0.02, 0.23, 0.57),
    },
}
