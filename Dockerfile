# The command in an image, for CPUs:
#   docker build -t keeltune .
#   docker run --rm -v "$PWD:/data" --user "$(id -u):$(id -g)" keeltune train recipe.yaml
FROM python:3.11-slim

# torch alone first, as in the Makefile, so that nothing else chooses its build; from where CPU builds are
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /opt/keeltune
COPY constraints.txt ./
RUN pip install --no-cache-dir --disable-pip-version-check -c constraints.txt --index-url "$TORCH_INDEX" torch

COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir --disable-pip-version-check -c constraints.txt \
    '.[demo,tracking,vision,speech,sentencepiece,japanese,korean]'

# whatever a recipe names is read and written by a user that owns nothing else
RUN useradd --create-home --uid 1000 keeltune && install -d -o keeltune /data
USER keeltune
ENV HF_HOME=/data/.cache/huggingface
WORKDIR /data
ENTRYPOINT ["keeltune"]
CMD ["--help"]
