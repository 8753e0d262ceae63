"""Where the numbers come from: folders of config.json + model.safetensors, and what is embedded.

The ground floor: it knows no model and imports none of the other packages.
"""
