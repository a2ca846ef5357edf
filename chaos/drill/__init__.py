"""Drills: experiments in Chaos Toolkit's format, and what makes them safe to run on a mesh that people use."""
