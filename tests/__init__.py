from hypothesis import HealthCheck, settings

# How long an example takes depends on the machine, and the first one pays for hypothesis's own tables.
settings.register_profile("suite", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
