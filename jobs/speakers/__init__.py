"""Jobs about people across files: cluster, recognise."""
