"""Writes ../farm64.json with an independent implementation: `pip install pyfarmhash==0.5.1`, then

python farm.py > ../farm64.json
"""

import json
from hashlib import sha256

import farmhash  # type: ignore[import-not-found, import-untyped, unused-ignore]

texts = ["x" * size for size in range(1, 140)]
texts += [sha256(f"{number}".encode()).hexdigest() + end for number in range(10) for end in ("", " b")]
print(json.dumps({text: str(farmhash.fingerprint64(text)) for text in texts}, indent=0))
