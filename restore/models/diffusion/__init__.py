"""Diffusion: how pictures turn into noise, the network that tells the noise, the way back."""
