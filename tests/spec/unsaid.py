"""What the description of ``platform-v1`` cannot say of itself."""

# What no schema can say: the field (or, where none is at fault, the words) for which a request that fits the description
# may still be refused with 400.
UNSAID = {
    "POST /train": {
        "config.quantization",  # int8 and int4 need a library that is not on every machine
        "config.max_length",  # a base model attends to so many tokens and no more
    },
    "POST /generate": {
        "num_return_sequences",  # greedy answers would all be the same
        "输入过长",  # the prompt is longer than what the model attends to
    },
    "POST /generate/batch": {"num_return_sequences", "输入过长"},
    "POST /datasets/upload": {
        "file",  # what stands in it
        "name",  # which characters can be seen, Unicode's tables say
    },
    "POST /datasets/process": {
        "ratios",  # they sum to 1
        "output_name",  # which characters are letters, Unicode's tables say
    },
}
