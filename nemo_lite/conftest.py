"""What every test of this package shares."""

import torch

# The models of the tests are tiny: a second thread costs more than it brings.
torch.set_num_threads(1)
