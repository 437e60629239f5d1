"""Knowledge that travels: a latent ODE of training that is fitted across tasks, and plans for tasks it never saw."""
