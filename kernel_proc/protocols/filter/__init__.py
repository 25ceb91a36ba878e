"""Filter (12/WAKU2-FILTER): messages of selected content topics for peers that do not run relay."""
