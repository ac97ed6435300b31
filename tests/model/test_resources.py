"""Which GPUs, TPUs, machines and regions go together, and what is said of those that don't."""

from __future__ import annotations

import pytest

from caliban.errors import UsageError
from caliban.model import hardware
from caliban.model.resources import GPUSpec, Machine, TPUSpec, check_region, choose
from tests.google_cloud import discovery

# Accelerators of the API that are left out on purpose: K80 is gone, the machines of GB200 are no
# x86-64, and TPU V4 is for clusters.
LEFT_OUT = {
    "ACCELERATOR_TYPE_UNSPECIFIED",
    "NVIDIA_TESLA_K80",
    "NVIDIA_GB200",
    "TPU_V4_POD",
    "TPU_V5_LITEPOD",
}


def refusal(*args: object, **kwargs: object) -> UsageError:
    """What `choose` says of a wrong wish."""
    with pytest.raises(UsageError) as error:
        choose(*args, **kwargs)  # type: ignore[arg-type]
    return error.value


class TestTheTable:
    def test_has_the_accelerators_of_the_api_under_its_own_names(self) -> None:
        schemas = discovery.document("aiplatform", "v1")["schemas"]
        enum = schemas["GoogleCloudAiplatformV1MachineSpec"]["properties"]["acceleratorType"]
        known = hardware.load()
        named = {gpu.vertex for gpu in known.gpus.values()}
        named |= {tpu.vertex for tpu in known.tpus.values() if tpu.vertex}
        assert named == set(enum["enum"]) - LEFT_OUT
        deprecated = zip(enum["enum"], enum["enumDeprecated"], strict=True)
        assert named.isdisjoint(name for name, is_old in deprecated if is_old)

    def test_has_regions_that_vertex_ai_has_an_endpoint_in(self) -> None:
        endpoints = discovery.document("aiplatform", "v1")["endpoints"]
        there = {each["location"] for each in endpoints}
        known = hardware.load()
        assert set(known.regions) <= there
        of_gpus = {name: gpu.regions for name, gpu in known.gpus.items()}
        of_tpus = {name: tpu.regions for name, tpu in known.tpus.items()}
        for name, regions in (of_gpus | of_tpus).items():
            assert set(regions) <= there, name

    def test_has_a_machine_for_every_number_of_every_accelerator(self) -> None:
        known = hardware.load()
        for gpu in known.gpus.values():
            assert gpu.counts
            for count in gpu.counts:
                for machine in known.machines_of(gpu, count):
                    region = next((r for r in gpu.regions if r in known.regions), "us-central1")
                    Machine(machine, region, GPUSpec(count, gpu.name))
        for tpu in known.trainable_tpus:
            for count in tpu.counts:
                assert choose(tpu.regions[0], tpu=TPUSpec(count, tpu.name)).type

    def test_has_every_machine_with_gpus_once(self) -> None:
        known = hardware.load()
        named = [m for gpu in known.gpus.values() for ms in gpu.machines.values() for m in ms]
        assert sorted(named) == sorted(known.built_in)
        assert set(named).isdisjoint(known.plain_machines)

    def test_names_gpus_for_compute_engine_and_gke_too(self) -> None:
        known = hardware.load().gpus
        assert known["T4"].compute == "nvidia-tesla-t4"
        assert known["H100"].compute == "nvidia-h100-80gb"


class TestSpecs:
    @pytest.mark.parametrize(
        ("text", "means"),
        [
            ("2xV100", "2xV100"),
            ("1xt4", "1xT4"),
            (" 4XL4 ", "4xL4"),
            ("8xA100-80GB", "8xA100_80GB"),
            ("1xNVIDIA_TESLA_P100", "1xP100"),
            ("8xnvidia-h200-141gb", "8xH200"),
            ("1xrtx-pro-6000", "1xRTX_PRO_6000"),
        ],
    )
    def test_are_read_as_users_write_them(self, text: str, means: str) -> None:
        assert str(GPUSpec.parse(text)) == means

    @pytest.mark.parametrize(
        "text", ["", "V100", "2", "2x", "xV100", "2 x V100", "two", "-1xT4", "1xT4,T4"]
    )
    def test_that_are_none_are_told_what_one_looks_like(self, text: str) -> None:
        with pytest.raises(UsageError) as error:
            GPUSpec.parse(text)
        assert error.value.message.endswith("is not a number and a type of GPUs, as in 2xV100")
        assert "A100, A100_80GB" in error.value.hint

    def test_in_a_number_that_no_machine_has_name_the_numbers(self) -> None:
        with pytest.raises(UsageError) as error:
            GPUSpec.parse("3xV100")
        assert error.value.message == ("3 GPUs of type V100 aren't available for any machine type")
        assert error.value.hint.startswith("Try one of: 1, 2, 4, 8.\n")
        assert "https://cloud.google.com/vertex-ai/" in error.value.hint
        with pytest.raises(UsageError, match=r"^1 GPU of type H200 isn't available"):
            GPUSpec(1, "H200")

    def test_of_no_gpus_are_refused_by_any_road(self) -> None:
        for force in (False, True):
            with pytest.raises(UsageError, match="0xT4 stands for no GPUs"):
                GPUSpec.parse("0xT4", force)

    def test_of_unknown_types_name_the_known_ones(self) -> None:
        with pytest.raises(UsageError, match="no GPUs of type K80 any more") as error:
            GPUSpec.parse("1xK80")
        assert "P4, P100" in error.value.hint
        assert "--force" in error.value.hint
        with pytest.raises(UsageError, match=r"no TPUs of type V1$"):
            TPUSpec.parse("8xV1")

    def test_that_are_forced_are_what_the_user_says(self) -> None:
        assert GPUSpec.parse("3xV100", force=True) == GPUSpec(3, "V100", force=True)
        forced = GPUSpec.parse("2xnvidia_x900", force=True)
        assert (forced.known, forced.vertex) == (None, "NVIDIA_X900")

    def test_of_tpus_are_checked_in_the_same_way(self) -> None:
        assert TPUSpec.parse("8xv3") == TPUSpec(8, "V3")
        with pytest.raises(UsageError, match=r"^9 TPUs of type V3 aren't available") as error:
            TPUSpec.parse("9xV3")
        assert error.value.hint.startswith("Try one of: 8.\n")


class TestMachinesOfTheUsersChoice:
    def test_that_cannot_have_the_gpus_name_those_that_can(self) -> None:
        error = refusal("us-central1", GPUSpec(2, "V100"), machine="n1-standard-96")
        assert error.message == "'n1-standard-96' isn't a valid machine type for 2 V100 GPUs"
        assert error.hint.startswith(
            "Try one of: n1-highcpu-16, n1-highmem-2, n1-highmem-4, n1-highmem-8, n1-highmem-16, "
            "n1-standard-4, n1-standard-8, n1-standard-16.\n"
        )
        assert "https://cloud.google.com/vertex-ai/" in error.hint
        assert "--force" in error.hint

    def test_of_the_documents_still_work(self) -> None:
        assert str(choose("us-central1", GPUSpec(8, "V100"), machine="n1-highcpu-96")) == (
            "n1-highcpu-96 with 8xV100 in us-central1"
        )

    def test_that_do_not_exist_name_similar_ones(self) -> None:
        error = refusal("us-central1", machine="n1-standard-12")
        assert error.message == "Vertex AI has no machine type 'n1-standard-12'"
        assert "n1-standard-16" in error.hint

    def test_bring_the_gpus_that_are_built_in(self) -> None:
        assert choose("us-central1", machine="a2-highgpu-4g").gpu == GPUSpec(4, "A100")
        error = refusal("us-central1", GPUSpec(2, "A100"), machine="a2-highgpu-4g")
        assert error.message == "'a2-highgpu-4g' isn't a valid machine type for 2 A100 GPUs"

    def test_with_gpus_of_their_own_are_none_for_cpu_mode(self) -> None:
        error = refusal("us-central1", machine="a2-highgpu-4g", wants_gpu=False)
        assert error.message == "'a2-highgpu-4g' comes with 4 A100 GPUs, which the job doesn't use"

    def test_get_a_gpu_that_can_be_attached_to_them(self) -> None:
        assert choose("us-central1", machine="n1-standard-16").gpu == GPUSpec(1, "T4")

    def test_that_need_several_gpus_name_which(self) -> None:
        error = refusal("us-central1", machine="n1-standard-96")
        assert error.message == "'n1-standard-96' can't have just 1 GPU, which jobs get by default"
        assert error.hint == "Pass --nogpu, or --gpu_spec with one of: 4xP4, 4xT4, 8xV100."

    def test_without_gpus_are_none_for_gpu_mode(self) -> None:
        error = refusal("us-central1", machine="e2-standard-8")
        assert error.message == "'e2-standard-8' has no GPUs, and none can be attached to it"
        assert "--nogpu" in error.hint
        assert choose("us-central1", machine="e2-standard-8", wants_gpu=False).gpu is None


class TestRegions:
    def test_without_the_gpu_name_those_with_it_and_what_they_have_instead(self) -> None:
        error = refusal("us-west2", GPUSpec(1, "V100"))
        assert error.message == "GPUs of type V100 aren't available in us-west2"
        assert error.hint.startswith(
            "Try one of these regions: asia-east1, europe-west4, us-central1, us-east1, us-west1.\n"
            "us-west2 has: B200, P4, T4.\n"
        )

    def test_without_the_tpu_name_those_with_it(self) -> None:
        error = refusal("us-west1", tpu=TPUSpec(8, "V3"))
        assert error.message == "TPUs of type V3 aren't available in us-west1"
        assert "us-west1 has: V5E, V6E." in error.hint

    def test_that_do_not_exist_name_similar_ones(self) -> None:
        error = refusal("us-central9")
        assert error.message == "Vertex AI doesn't train in 'us-central9'"
        assert error.hint.startswith("Try one of: us-central1,")
        with pytest.raises(UsageError, match="doesn't train in ''"):
            check_region("")

    def test_of_accelerators_that_nobody_knows_of_are_not_refused(self) -> None:
        assert choose("me-west1", GPUSpec(1, "RTX_PRO_6000")).type == "g4-standard-48"


class TestDefaults:
    def test_are_a_gpu_that_can_be_had_and_its_usual_machine(self) -> None:
        assert str(choose("us-central1")) == "g2-standard-8 with 1xL4 in us-central1"
        assert str(choose("us-west3")) == "n1-standard-8 with 1xT4 in us-west3"

    def test_are_told_where_the_region_has_neither(self) -> None:
        error = refusal("us-south1")
        assert error.message == ("us-south1 has no L4 or T4 GPUs, which jobs get by default")
        assert error.hint == "It has: B200, H200. Name one with --gpu_spec."
        assert "--nogpu" in refusal("africa-south1").hint

    def test_without_a_gpu_are_a_machine_of_many_cpus(self) -> None:
        assert str(choose("africa-south1", wants_gpu=False)) == "n1-highcpu-32 in africa-south1"

    def test_follow_the_gpu(self) -> None:
        for text, machine in {
            "1xP100": "n1-standard-8",
            "8xV100": "n1-standard-8",
            "2xL4": "g2-standard-24",
            "16xA100": "a2-megagpu-16g",
            "8xH100_MEGA": "a3-megagpu-8g",
        }.items():
            assert choose("us-central1", GPUSpec.parse(text)).type == machine

    def test_every_region_has_one_or_says_so(self) -> None:
        for region in hardware.load().regions:
            try:
                assert choose(region).gpu
            except UsageError as error:
                assert "which jobs get by default" in error.message


class TestTPUs:
    def test_bring_their_machine_and_need_no_gpu(self) -> None:
        found = choose("us-central1", tpu=TPUSpec(8, "V3"))
        assert (found.type, found.gpu, found.topology) == ("cloud-tpu", None, "")
        found = choose("us-central1", tpu=TPUSpec(4, "V6E"))
        assert (found.type, found.topology) == ("ct6e-standard-4t", "2x2")

    def test_cannot_be_in_one_job_with_gpus(self) -> None:
        error = refusal("us-central1", GPUSpec(1, "T4"), TPUSpec(8, "V3"), force=True)
        assert error.message == "1xT4 and 8xV3 can't be in one job"

    def test_that_are_for_clusters_only_are_refused(self) -> None:
        error = refusal("us-central1", tpu=TPUSpec(4, "V5P"))
        assert error.message == "Vertex AI doesn't train on TPUs of type V5P"
        assert error.hint == "Try one of: V2, V3, V5E, V6E; or a cluster."

    def test_need_their_own_machine(self) -> None:
        error = refusal("us-central1", tpu=TPUSpec(8, "V3"), machine="n1-standard-8")
        assert error.hint == "Leave out --machine_type: it is cloud-tpu."
        assert "--tpu_spec" in refusal("us-central1", machine="cloud-tpu").hint


class TestForce:
    def test_lets_everything_pass_that_might_exist(self) -> None:
        gpu = GPUSpec.parse("3xV100", force=True)
        found = choose("mars-north1", gpu, machine="n9-huge-3", force=True)
        assert str(found) == "n9-huge-3 with 3xV100 in mars-north1"

    def test_still_needs_a_machine_for_what_is_unknown(self) -> None:
        gpu = GPUSpec.parse("2xNVIDIA_X900", force=True)
        error = refusal("us-central1", gpu, force=True)
        assert error.message == "caliban doesn't know which machine has 2xNVIDIA_X900"
        assert error.hint == "Name it with --machine_type."

    def test_does_not_settle_a_contradiction(self) -> None:
        error = refusal("us-central1", GPUSpec(1, "T4"), wants_gpu=False, force=True)
        assert error.message == "--nogpu and --gpu_spec 1xT4 contradict one another"
