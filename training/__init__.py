"""The recipe of the built-in model `stickers`: pictures, autoencoder, denoiser, two CLIPs, export, evaluation."""
