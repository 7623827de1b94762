"""The tokens that every vocabulary of sentences begins with, and the target that counts for nothing."""

PAD, BOS, EOS, UNKNOWN = range(4)  # padding, beginning, end, a token that the training split did not have
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
NO_TARGET = -100  # what torch's losses and torchmetrics pass over
