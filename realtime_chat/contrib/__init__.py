"""What joins the daemon with other systems, each with an extra of its own."""
