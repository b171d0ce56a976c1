"""Writers of the formats that other programs read Whisper's weights from; every number stays what it is."""
