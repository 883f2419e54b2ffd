"""Every knob: groups of yaml files; a stem is the public name of a part."""
