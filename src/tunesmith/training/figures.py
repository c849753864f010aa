"""What is told of preference tuning beside the loss, by the names TRL gives it.

A reward is beta times how much likelier an answer is than under the base, in nats.
"""

ACCURACIES = "rewards/accuracies"  # share of pairs whose chosen answer has the higher reward, in [0, 1]
MARGINS = "rewards/margins"  # how much higher, on the mean
NLL = "nll_loss"  # mean loss of the general examples among the pairs
