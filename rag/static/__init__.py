"""The chat page: plain HTML, CSS and JavaScript, no build step, nothing from outside."""
