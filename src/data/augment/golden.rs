//! The operations against Pillow, torchvision and timm: `scripts/golden/augment.py`.
