"""What objectives are made of: targets, reconstruction, losses, a momentum queue, guards against collapse."""
