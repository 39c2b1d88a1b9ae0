"""The model: MG-DSC, its levels, fusion, inputs and heads."""
