/* `muster gpus fence` and `muster gpus unfence`: asked of a running server. argv[0] is the GPU. Return the exit status.
 */
#ifndef CLI_GPUS_FENCE_H
#define CLI_GPUS_FENCE_H

int gpus_fence(int argc, char **argv);
int gpus_unfence(int argc, char **argv);

#endif
