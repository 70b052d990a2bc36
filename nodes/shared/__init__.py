"""Sockets, widgets and checks that several rooms of nodes share."""
