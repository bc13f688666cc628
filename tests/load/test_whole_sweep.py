"""`phalanx tune` to its end, on ranks that are faster with more sequences; and `phalanx serve` with what it found."""

from pathlib import Path

from tests.service import serving
from tests.tuning import Tuning

ENGINE = {"step_ms": 30, "max_seqs_that_fit": 512}


def test_what_is_faster_wins_and_is_served(tmp_path: Path) -> None:
    tuning = Tuning(tmp_path, **ENGINE)
    result = tuning.finish("--input-tokens", "8", "--budget", "1h")
    assert result["is_complete"] and result["winner"] == "512 sequences", tuning.said
    baseline, fast, too_many = result["trials"]
    assert fast["against_baseline"] > 1.6 and fast["rounds"] == baseline["rounds"] == 6
    assert "out of memory: 1024 sequences do not fit" in too_many["failure"]
    again = tuning.finish("--input-tokens", "8", "--budget", "1h")
    assert again["trials"] == result["trials"] and "going on" in tuning.said, "nothing is measured twice"
    flags = ("--model", "any/model", "--tuned", "--tuned-dir", str(tuning.tuned))
    with serving(*flags, dp_size=1, **ENGINE) as service:
        assert service.ranks()[0]["max_num_seqs"] == 512
        (said,) = service.facts("tuned_settings_taken")
        assert said["file"] == result["file"]
    with serving(*flags, "--no-tuned", dp_size=1, **ENGINE) as service:
        assert service.ranks()[0]["max_num_seqs"] == 256
        assert service.facts("tuned_settings_taken") == []
