"""What joins the app to other packages; each module needs its own."""
