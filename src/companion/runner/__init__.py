"""Runs the notebooks with papermill, each in a process that dies with the runner and a staging folder that no other run
has; checks what they made and claimed; installs good results in build/ with a manifest. Nothing imports it.
"""
