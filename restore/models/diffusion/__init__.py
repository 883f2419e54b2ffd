"""Diffusion: how pictures turn into noise, the network that predicts the noise, the way back."""
