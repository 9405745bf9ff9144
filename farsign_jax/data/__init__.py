"""The embedded data: 12,000 MNIST images and the script that selects them."""
