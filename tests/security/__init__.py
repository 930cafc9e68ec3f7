"""What attackers did, against real services: each attack is refused by its code, and changes nothing."""
