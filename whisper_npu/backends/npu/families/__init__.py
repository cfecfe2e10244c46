"""Families of kernels: what one needs to be packed for, launched, checked and predicted."""
