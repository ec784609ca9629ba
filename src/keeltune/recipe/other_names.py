"""What other programs call our fields: transformers' Trainer, TRL, LLaMA-Factory, axolotl, sentence-transformers.

One table, asked for a name that a section does not have, before anything that is merely spelt alike: `streaming` is no
slip for `training`. A name has a field of ours, or a reason why a recipe needs none.
"""

from __future__ import annotations

FIELDS = {
    # the model
    "base_model": "model", "model_name_or_path": "model", "model_name": "model", "pretrained_model": "model",
    "model_id": "model", "checkpoint": "model", "student": "model", "student_model": "model",
    "teacher": "reference", "teacher_model": "reference", "teacher_model_name_or_path": "reference",
    "ref_model": "reference", "reference_model": "reference",
    "num_labels": "data.labels", "label_list": "data.labels", "id2label": "data.labels",
    # the rows
    "dataset": "data.train", "datasets": "data.train", "dataset_name": "data.train", "dataset_path": "data.train",
    "train_file": "data.train", "train_data": "data.train", "train_path": "data.train",
    "validation_file": "data.validation", "val_file": "data.validation", "dev_file": "data.validation",
    "eval_dataset": "data.validation", "val_set_size": "data.validation", "test_size": "data.validation",
    "validation_split": "data.validation", "test_file": "data.test", "test_data": "data.test",
    "test_datasets": "data.test", "dataset_text_field": "data.columns", "text_column": "data.columns",
    "text_column_name": "data.columns", "label_column": "data.columns", "label_column_name": "data.columns",
    "field_messages": "data.columns", "column_mapping": "data.columns", "max_train_samples": "data.share",
    "class_weight": "data.class_weights", "label_weights": "data.class_weights",
    "problem_type": "data.multi_label",
    # lengths
    "max_seq_length": "max_length", "max_seq_len": "max_length", "sequence_len": "max_length",
    "cutoff_len": "max_length", "max_source_length": "max_length", "model_max_length": "max_length",
    "max_prompt_length": "max_length", "max_input_length": "max_length", "block_size": "max_length",
    "max_target_length": "target_max_length", "max_completion_length": "target_max_length",
    "val_max_target_length": "target_max_length", "max_output_length": "target_max_length",
    "prompt_template": "prompt", "instruction": "prompt", "source_prefix": "prompt",
    "source_lang": "languages.source", "src_lang": "languages.source",
    "target_lang": "languages.target", "tgt_lang": "languages.target", "language": "languages",
    # how to train
    "lr": "training.learning_rate", "base_lr": "training.learning_rate",
    "num_epochs": "training.epochs", "num_train_epochs": "training.epochs", "n_epochs": "training.epochs",
    "max_epochs": "training.epochs", "steps": "training.max_steps", "num_steps": "training.max_steps",
    "train_steps": "training.max_steps", "micro_batch_size": "training.batch_size", "bs": "training.batch_size",
    "train_batch_size": "training.batch_size", "per_device_train_batch_size": "training.batch_size",
    "per_device_eval_batch_size": "training.batch_size", "eval_batch_size": "training.batch_size",
    "grad_accum": "training.gradient_accumulation_steps", "accumulate_grad_batches":
    "training.gradient_accumulation_steps", "grad_accumulation_steps": "training.gradient_accumulation_steps",
    "optimizer": "training.optim", "scheduler": "training.lr_scheduler_type",
    "lr_scheduler": "training.lr_scheduler_type", "warmup": "training.warmup_steps",
    "warmup_ratio": "training.warmup_steps (below 1 it is a share of all steps)",
    "gradient_clipping": "training.max_grad_norm", "grad_clip": "training.max_grad_norm",
    "clip_grad_norm": "training.max_grad_norm", "wd": "training.weight_decay",
    "bf16": "training.precision", "fp16": "training.precision",
    "bf16_full_eval": "training.precision", "fp16_full_eval": "training.precision",
    "mixed_precision": "training.precision", "dtype": "training.precision", "torch_dtype": "training.precision",
    "random_seed": "training.seed", "data_seed": "training.seed", "seeds": "training.seed",
    "fsdp": "training.distributed.fsdp", "fsdp_config": "training.distributed.fsdp",
    "zero_stage": "training.distributed.fsdp",
    "peft": "training.lora", "peft_config": "training.lora", "lora_config": "training.lora",
    "use_peft": "training.lora", "use_lora": "training.lora", "adapter": "training.lora",
    "finetuning_type": "training.lora", "lora_r": "training.lora.rank", "lora_rank": "training.lora.rank",
    "r": "training.lora.rank", "lora_alpha": "training.lora.alpha", "lora_dropout": "training.lora.dropout",
    "lora_target": "training.lora.target_modules", "lora_target_modules": "training.lora.target_modules",
    "load_in_4bit": "training.lora.base", "quantization": "training.lora.base",
    "quantization_bit": "training.lora.base", "bnb_config": "training.lora.base",
    "use_wandb": "training.report_to", "wandb_project": "training.report_to", "logger": "training.report_to",
    "gradient_checkpointing_enable": "training.gradient_checkpointing",
    "attn_implementation": "training.attention", "flash_attention": "training.attention",
    "flash_attn": "training.attention",
    # when to measure
    "early_stopping_patience": "evaluation.patience", "early_stopping": "evaluation.patience",
    "early_stopping_rounds": "evaluation.patience", "patience": "evaluation.patience",
    "eval_strategy": "evaluation.every", "evaluation_strategy": "evaluation.every", "eval_steps": "evaluation.every",
    "evals_per_epoch": "evaluation.every", "eval_every": "evaluation.every", "max_eval_samples": "evaluation.rows",
    "compute_metrics": "evaluation.metrics", "best_metric": "evaluation.metric",
    # the formula
    "loss": "objective.divergence", "kd_loss": "objective.divergence", "distillation_loss": "objective.divergence",
    "kl_weight": "objective.weight", "kl_coef": "objective.weight", "kd_weight": "objective.weight",
    "lambda": "objective.weight", "kd_alpha": "objective.weight", "kd_ce_alpha": "objective.weight",
    "distillation_weight": "objective.weight", "kd_temperature": "objective.temperature",
    "distillation_temperature": "objective.temperature",
    # how to write
    "num_beams": "generation.beams", "generation_num_beams": "generation.beams", "beam_size": "generation.beams",
    "generation_max_length": "generation.max_new_tokens", "max_tokens": "generation.max_new_tokens",
    "max_new_tokens": "generation.max_new_tokens", "beams": "generation.beams",
    # fields of ours, looked for in another section
    "max_length": "max_length", "target_max_length": "target_max_length", "prompt": "prompt",
    "temperature": "objective.temperature", "divergence": "objective.divergence", "columns": "data.columns",
    "validation": "data.validation", "labels": "data.labels", "multi_label": "data.multi_label",
    # the run
    "output_dir": "output", "output_path": "output", "save_dir": "output",
    "overwrite_output_dir": "the option --overwrite",
    "resume_from_checkpoint": "the option --resume", "auto_resume_from_checkpoints": "the option --resume",
}  # fmt: skip
"""Each name, with the field of a recipe that says the same."""

TRAINERS = {
    "label_smoothing_factor": "the loss is keeltune's formula, which has no smoothing",
    "use_liger_kernel": "the loss is not computed inside the model",
    "liger_kernel_config": "the loss is not computed inside the model",
    "average_tokens_across_devices": "predictions are always counted over all processes",
    "train_sampling_strategy": "a step is always made of rows of similar length",
    "group_by_length": "a step is always made of rows of similar length",
    "length_column_name": "a step is always made of rows of similar length",
    "auto_find_batch_size": "the plan of steps does not change while it runs",
    "remove_unused_columns": "a batch holds what the task puts there",
    "label_names": "a batch holds what the task puts there",
    "dataloader_drop_last": "no row is ever dropped",
    "dataloader_in_order": "the order of rows is a function of the seed and the epoch",
    "accelerator_config": "keeltune makes the batches",
    "logging_nan_inf_filter": "a loss that is not finite stops the run",
    "include_num_input_tokens_seen": "result.json has the tokens a second",
    "include_for_metrics": "keeltune has its own evaluation",
    "prediction_loss_only": "keeltune has its own evaluation",
    "batch_eval_metrics": "keeltune has its own evaluation",
    "load_best_model_at_end": "the best model is always kept, by evaluation.metric",
    "metric_for_best_model": "the best model is always kept, by evaluation.metric",
    "greater_is_better": "the best model is always kept, by evaluation.metric",
    "ignore_data_skip": "a resumed run goes on where it stopped, to the bit",
    "restore_callback_states_from_checkpoint": "a resumed run goes on where it stopped, to the bit",
    "save_only_model": "a checkpoint must be able to resume",
    "disable_tqdm": "keeltune shows its own progress",
    "local_rank": "torchrun sets it",
    "push_to_hub": "keeltune uploads nothing; the run's model folder is there to be uploaded",
    "parallelism_config": "training.distributed shards weights, in one way",
    "deepspeed": "training.distributed.fsdp shards what ZeRO does, with torch alone",
}
"""Fields of TrainingArguments that a run would have to ignore, with the reason."""

FAMILIES = {
    "hub_": "keeltune uploads nothing, and a recipe holds no secret",
    "ddp_": "keeltune sets up the processes",
    "do_": "the command says what is done",
    "eval_": "keeltune has its own evaluation, with evaluation.every",
}
"""How others of them start, with the reason."""

NOT_NEEDED = TRAINERS | {
    "streaming": "a file is read once, in one pass, and is held in memory",
    "packing": "a row's loss must not depend on the rows beside it, so that none are packed",
    "sample_packing": "a row's loss must not depend on the rows beside it, so that none are packed",
    "padding_free": "masks are explicit, and rows of similar length share a batch",
    "pad_to_max_length": "rows are padded to the longest of their batch",
    "padding": "rows are padded to the longest of their batch",
    "truncation": "what is longer than max_length is cut, and counted",
    "shuffle": "the order of rows is a function of the seed and the epoch",
    "load_in_8bit": "weights are trained as they are; training.lora saves memory",
    "trust_remote_code": "code inside a model folder is never run",
    "use_fast_tokenizer": "the tokenizer is the model's own",
    "tokenizer_name": "the tokenizer is the model's own",
    "tokenizer_name_or_path": "the tokenizer is the model's own",
    "tokenizer_type": "the tokenizer is the model's own",
    "model_type": "the model's own configuration says it (of a new one: model.new)",
    "chat_template": "the tokenizer's own is used",
    "template": "the tokenizer's own chat template is used, or prompt",
    "train_on_inputs": "what is given is never learnt",
    "completion_only_loss": "what is given is never learnt",
    "assistant_only_loss": "what is given is never learnt",
    "mask_prompt": "what is given is never learnt",
    "device": "it is chosen by what the machine has (keeltune doctor shows it)",
    "device_map": "it is chosen by what the machine has (keeltune doctor shows it)",
    "n_gpu": "it is chosen by what the machine has; several processes: torchrun",
    "num_processes": "torchrun says how many there are",
    "merge_lora": "adapters are merged into model/ and kept beside it",
    "save_best_model": "the best model is always kept, by evaluation.metric",
    "predict_with_generate": "tasks that write text are scored by what is written",
    "hub_model_id": "keeltune uploads nothing; the run's model folder is there to be uploaded",
    "cache_dir": "the hub's client has its own, HF_HOME",
    "preprocessing_num_workers": "one process reads 50 MB a second",
    "dataset_num_proc": "one process reads 50 MB a second",
}
"""Names that a recipe has no field for, with the reason."""

PASSED = (
    "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "warmup_steps", "lr_scheduler_type",
    "lr_scheduler_kwargs", "gradient_checkpointing", "gradient_checkpointing_kwargs", "save_steps", "save_total_limit",
    "save_strategy", "logging_steps", "logging_strategy", "logging_first_step", "report_to", "optim", "optim_args",
    "dataloader_num_workers", "dataloader_pin_memory", "torch_compile", "neftune_noise_alpha",
)  # fmt: skip
"""Fields of TrainingArguments that stand below `training`, where they are found most often elsewhere."""


def other_name(section: str, name: str) -> tuple[str, str] | None:
    """(expected, how to fix it) of a field that `section` of a recipe ("" for its top) does not have, where its name is
    known from other programs; None where it is not."""
    plain = name.lower().replace("-", "_")
    if plain in PASSED and section != "training":
        return f"no {name} here: it is a field of training", f"write it as training.{plain}"
    if plain in FIELDS and FIELDS[plain] != f"{section}.{name}".lstrip("."):
        return f"no {name}: keeltune has its own field for it", f"use {FIELDS[plain]}"
    if plain in NOT_NEEDED:
        return f"no {name}: {NOT_NEEDED[plain]}", "leave it out"
    return None
