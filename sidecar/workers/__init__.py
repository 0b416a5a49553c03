"""Several processes for one service: workers carry the traffic, their leader learns, stores and answers people."""
