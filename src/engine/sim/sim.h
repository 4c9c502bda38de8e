/*
 * An engine without a model: waits as long as it is told and echoes its inputs, or fails in the way it is told. For
 * tests of everything around an engine, and for planning without hardware. Settings: docs/engine-sim.md.
 */
#ifndef ENGINE_SIM_SIM_H
#define ENGINE_SIM_SIM_H

#include <muster/muster.h>

extern const mu_engine engine_sim;

#endif
