#!/bin/bash
# surgery-purpose: 41,230 rows in shards, written by medtask submit.
# A shard keeps its answers in its folder. Stopped, killed and repeated tasks continue
# where the shard is.
#SBATCH --job-name=medtask-surgery-purpose
#SBATCH --array=1-16
#SBATCH --time=8:00:00
#SBATCH --partition=gpu
#SBATCH --gres=gpu:1
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR2@120
#SBATCH --output=/data/surgery/runs/2026-11-29-1200/logs/shard-%a.log

set -u
umask 077
run=/data/surgery/runs/2026-11-29-1200
python=/opt/medtask/bin/python
shard="$SLURM_ARRAY_TASK_ID"
job="${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"

# A job that Slurm is ending, as after scancel, is COMPLETING: it is not put back.
continue_later() {
  case "$(scontrol show job "$job" --oneliner)" in
    *JobState=RUNNING*) echo "shard $shard continues later"; scontrol requeue "$job" ;;
    *) echo "shard $shard was cancelled" ;;
  esac
}

# USR2: the time limit is near. TERM: the job is preempted or cancelled.
signals=0
trap 'signals=1; kill -TERM "$worker" 2>/dev/null' USR2 TERM
"$python" -m medtask shard "$run" "$shard" &
worker=$!
wait "$worker"
code=$?
while [ "$signals" = 1 ]; do  # a signal ends a wait before the process ends
  signals=0
  wait "$worker"
  code=$?
done

# 143: stopped, with all answers kept. 137: killed, as for want of memory; after three
# such ends without a new answer, medtask ends with another code.
if [ "$code" = 143 ] || [ "$code" = 137 ]; then continue_later; fi
exit "$code"
