"""Short names for use in this folder: `from models.rgb_depth_model import create_rgb_depth_model`. Not installed."""
