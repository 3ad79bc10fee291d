"""temporary"""

import anyio


class Journal:
    def __init__(self, *a):
        pass

    def audit(self, *a, **k):
        pass

    def span(self, *a):
        pass

    async def run(self):
        await anyio.sleep_forever()
