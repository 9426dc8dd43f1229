"""The emulated commands: what each understands and prints. Each answers a ``Call`` from the controller's queue."""
