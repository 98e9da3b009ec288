"""What happens around the updates: acting, recording, showing."""
