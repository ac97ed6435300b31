from __future__ import annotations

import pytest

from caliban.errors import UsageError
from caliban.model import hardware
from caliban.model.pod_resources import PodResources, elsewhere, on_gke, region_of
from caliban.model.resources import GPUSpec, TPUSpec


@pytest.mark.parametrize(
    ("location", "region"),
    [
        ("us-central1-a", "us-central1"),
        ("us-central1", "us-central1"),
        ("northamerica-northeast1-b", "northamerica-northeast1"),
        ("", ""),
    ],
)
def test_a_zone_lies_in_its_region(location: str, region: str) -> None:
    assert region_of(location) == region


class TestOnGKE:
    def test_a_job_without_gpus_asks_for_most_of_a_machine(self) -> None:
        assert on_gke(None, None, "us-central1", False) == PodResources(cpu=31_000, memory=25_000)

    @pytest.mark.parametrize(
        ("region", "gpu"), [("us-central1", "L4"), ("asia-east2", "T4"), ("", "L4")]
    )
    def test_a_job_in_gpu_mode_gets_the_usual_gpu_of_the_region(
        self, region: str, gpu: str
    ) -> None:
        found = on_gke(None, None, region, True)
        assert found == PodResources(1, GPUSpec(1, gpu), None, 1_500, 7_000)
        assert found.gpu_type == f"nvidia-{gpu.lower()}" or found.gpu_type == "nvidia-tesla-t4"

    def test_what_is_said_counts(self) -> None:
        found = on_gke(GPUSpec(2, "V100"), None, "us-west1", True, 2_000, 4_096)
        assert found == PodResources(2, GPUSpec(2, "V100"), None, 2_000, 4_096)
        assert (found.gpu_type, found.tpu_type, str(found)) == ("nvidia-tesla-v100", "", "2xV100")

    def test_tpus_have_their_type_and_topology(self) -> None:
        found = on_gke(None, TPUSpec(8, "V5E"), "us-west4", False)
        assert (found.tpu_type, found.topology) == ("tpu-v5-lite-podslice", "2x4")
        assert (found.gpus, found.cpu, found.memory) == (0, 1_500, 7_000)

    def test_no_gpu_comes_beside_tpus_by_itself(self) -> None:
        assert on_gke(None, TPUSpec(1, "V6E"), "us-east5", True).gpu is None

    def test_a_region_without_them_is_told_with_those_that_have_them(self) -> None:
        with pytest.raises(UsageError, match="GPUs of type V100 aren't available in us-west2") as e:
            on_gke(GPUSpec(1, "V100"), None, "us-west2", True)
        assert "Try one of these regions: asia-east1, europe-west4" in e.value.hint
        assert "--force" in e.value.hint

    def test_a_tpu_that_only_gke_has_is_told_where_it_is(self) -> None:
        with pytest.raises(UsageError, match="TPUs of type V4 aren't available in us-west2") as e:
            on_gke(None, TPUSpec(4, "V4"), "us-west2", False)
        assert "Try one of these regions: us-central2." in e.value.hint

    @pytest.mark.parametrize("gone", ["V2", "V3"])
    def test_old_tpus_are_gone(self, gone: str) -> None:
        with pytest.raises(UsageError, match=f"GKE has no TPUs of type {gone} any more") as caught:
            on_gke(None, TPUSpec(8, gone), "us-central1", False)
        assert "Try one of: V4, V5E, V5P, V6E." in caught.value.hint

    def test_a_region_without_usual_gpus_is_told(self) -> None:
        usual = hardware.load().default_gpus
        there = {region for name in usual for region in hardware.load().gpus[name].regions}
        region = next(each for each in hardware.load().regions if each not in there)
        with pytest.raises(UsageError, match=f"{region} has no L4 or T4 GPUs") as caught:
            on_gke(None, None, region, True)
        assert "--gpu_spec" in caught.value.hint and "--nogpu" in caught.value.hint

    def test_force_lets_anything_pass(self) -> None:
        found = on_gke(GPUSpec(3, "NVIDIA_NEW", True), None, "us-west2", True, force=True)
        assert (found.gpus, found.gpu_type) == (3, "nvidia-new")
        assert on_gke(GPUSpec(1, "V100"), None, "us-west2", True, force=True).gpus == 1
        assert on_gke(None, None, "nowhere1", True, force=True).gpu == GPUSpec(1, "L4")
        assert on_gke(None, TPUSpec(2, "V9", True), "x", False, force=True).tpu_type == "v9"


class TestElsewhere:
    def test_nothing_is_asked_for_by_itself_but_a_gpu_of_any_type(self) -> None:
        assert elsewhere(None, None, False) == PodResources()
        found = elsewhere(None, None, True)
        assert found == PodResources(gpus=1)
        assert (found.gpu_type, str(found)) == ("", "1 GPU")

    def test_any_gpu_in_any_number_may_be_there(self) -> None:
        gpu = GPUSpec.parse("3xRTX3090", force=True)
        assert elsewhere(gpu, None, True, 500, 64) == PodResources(3, gpu, None, 500, 64)

    def test_there_are_no_tpus(self) -> None:
        with pytest.raises(UsageError, match="only clusters of GKE have TPUs such as 8xV5E"):
            elsewhere(None, TPUSpec(8, "V5E"), False)


@pytest.mark.parametrize("where", ["on_gke", "elsewhere"])
def test_gpus_and_tpus_are_not_in_one_job(where: str) -> None:
    with pytest.raises(UsageError, match="1xL4 and 8xV5E can't be in one job"):
        if where == "on_gke":
            on_gke(GPUSpec(1, "L4"), TPUSpec(8, "V5E"), "us-central1", True)
        else:
            elsewhere(GPUSpec(1, "L4"), TPUSpec(8, "V5E"), True)
