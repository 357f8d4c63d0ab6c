"""CapFilt: caption every web image, filter web and synthetic texts, write the next dataset (BLIP, sec. 3.3)."""
