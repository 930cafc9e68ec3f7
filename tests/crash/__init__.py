"""Kills: edge, cloud and PostgreSQL as real processes, ended by SIGKILL at every named fail point and at random."""
