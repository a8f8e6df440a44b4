"""Programs of users that the operating tests run as processes; each is its file's whole text."""

SLOW = '''
"""A model that takes 0.2 s a request, served by ModelServer."""
import time

from headrace.server import Model, ModelServer


class Slow(Model):
    def predict(self, payload, headers=None):
        time.sleep(0.2)
        return {"predictions": payload["instances"]}


model = Slow("slow")
model.load()
ModelServer().start([model])
'''

STUCK = '''
"""A model that answers only when it is cancelled."""
import asyncio

from headrace.server import Model, ModelServer


class Stuck(Model):
    async def predict(self, payload, headers=None):
        print("stuck", flush=True)
        await asyncio.Event().wait()


model = Stuck("stuck")
model.load()
ModelServer().start([model])
'''

CLINGS = '''
"""A model that cannot be cancelled."""
import asyncio

from headrace.server import Model, ModelServer


class Clings(Model):
    async def predict(self, payload, headers=None):
        print("clings", flush=True)
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass


model = Clings("clings")
model.load()
ModelServer().start([model])
'''

BROKEN = '''
"""A model whose load fails."""
from headrace.server import Model, ModelServer


class Broken(Model):
    def load(self):
        raise ValueError("no weights")


ModelServer().start([Broken("broken")])
'''

LATE = '''
"""A model that is registered before it is ready."""
from headrace.server import Model, ModelServer


class Late(Model):
    def start(self):
        pass


ModelServer().start([Late("late")])
'''
