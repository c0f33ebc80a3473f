"""Chat models as rewards: a vision-language model is shown an image and asked how good it is."""
