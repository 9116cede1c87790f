"""What objectives are made of: losses, reconstruction, a momentum queue, guards against collapse."""
