"""The recipe of the built-in model `stickers`: images, autoencoder, denoiser, two CLIPs, export, evaluation."""
