"""Depth from binaural echoes, distilled from an RGB depth teacher."""
