"""The state folder with two published models that several parts serve from."""

import data
from server import Server, outcome
from kit import Failed

BATCH = 16  # A few steps an epoch, also of a hundred photos.


def job_flags(kit, batch=BATCH):
    """Settings with which a kit's photos are learnt in five epochs."""
    lr = 0.001 if kit.weights else 0.003
    return ("--lr", lr, "--batch-size", batch, "--seed", 1)


def train_version(kit, server, epochs):
    job = server.wait_for_job(server.start_job(
        kit.data, "--name", "photos", "--epochs", epochs, *job_flags(kit)))
    if job.get("state") != "JOB_STATE_SUCCEEDED":
        raise Failed(f"the job to make a model: {outcome(job)}")


def base(kit):
    """photos@1 and photos@2, with the server stopped. Made once; the part
    `job` makes the first version where it comes before."""
    if kit.state is None:
        kit.state = kit.work / "state"
    present = [data.published(kit.state, v).is_file() for v in (1, 2)]
    if not all(present):
        with Server(kit, kit.state) as server:
            for _ in range(present.count(False)):
                train_version(kit, server, epochs=1)
    return kit.state


def copy(kit, name):
    return data.copy_state(kit, base(kit), name)


def classified(kit, server, photos, model="photos@1"):
    """The answers for a folder; raises if one is missing."""
    answers, said = server.classify(photos, model=model)
    expected = len(data.photos_in(photos))
    if len(answers) != expected:
        raise Failed(f"{len(answers)} of {expected} photos were classified: "
                     f"{said[-200:]}")
    return answers
